"""uvicorn's keeper of worker processes, which also sees one die that it has just asked for a sign of life."""

from uvicorn.supervisors import Multiprocess


class Workers(Multiprocess):
    """Workers on sockets of their own; one that dies is started anew."""

    def keep_subprocess_alive(self) -> None:
        """Ask each worker for a sign of life, and start anew what has ended."""
        for process in self.processes:
            # The worker holds its own end. While this one is open too, a worker that dies over a question leaves the
            # keeper waiting for the answer, deaf to signals, for all of the two minutes that a start may take.
            process.child_conn.close()
        super().keep_subprocess_alive()
