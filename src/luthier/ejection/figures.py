"""The figure that decides which epoch of an ejected run is the best, where that is not a loss."""

from luthier.core.schema import Schema
from luthier.ejection.text import indented, literal
from luthier.errors import RunError


def write_monitored(monitor: str, schema: Schema, *, has_unseen: bool = False) -> str:
    """Return the function of the figure that decides which epoch is the best.

    Args:
        monitor: Its name.
        schema: The task and the targets.
        has_unseen: Whether validation rows have classes that training rows do not have.

    Raises:
        RunError: a figure that no script knows.
    """
    name = monitor.removeprefix("valid_")
    decided = "outputs.argmax(dim=1)" if schema.task == "multiclass" else "(outputs > 0).long()"
    items = [literal((of.transform == "log", of.unit, of.mean, of.std, of.span)) for of in schema.targets]
    scales = (
        f"[{', '.join(items)}]" if sum(map(len, items)) < 60 else "[\n" + "".join(f"    {x},\n" for x in items) + "]"
    )
    in_units = f"""columns = []
# logarithm, its unit, mean, deviation, range of answers
scales = {scales}
for k, (is_log, unit, mean, std, span) in enumerate(scales):
    for numbers in (targets, outputs):
        column = numbers.double().reshape(len(targets), -1)[:, k] * std + mean
        column = column.sign() * column.abs().expm1() * unit if is_log else column
        columns.append(column.clamp(*span) if numbers is outputs and span else column)
true, errors = torch.stack(columns[::2], 1), torch.stack(columns[1::2], 1) - torch.stack(columns[::2], 1)"""
    bodies = {
        "accuracy": f"return ({decided} == targets).double().mean().item()",
        "f1": f"""decided = {decided}.reshape(len(targets), -1)
true = targets.long().reshape(len(targets), -1)
scores = []
for wanted in {"torch.cat([decided, true]).unique()" if schema.task == "multiclass" else "(1,)"}:
    hits = ((decided == wanted) & (true == wanted)).sum(0).double()
    both = (decided == wanted).sum(0).double() + (true == wanted).sum(0).double()
    scores.append(torch.where(both > 0, 2 * hits / both.clamp(min=1), torch.zeros_like(both)))
return torch.stack(scores).mean().item()""",
        "auc": ("outputs, targets = outputs[targets > -100], targets[targets > -100]\n" if has_unseen else "")
        + """scores, positive = outputs.reshape(-1), targets.reshape(-1) > 0
_, place, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
ranks = (sizes.cumsum(0).double() - (sizes - 1).double() / 2)[place]
n, p = len(scores), int(positive.sum())
return (float(ranks[positive].sum()) - p * (p + 1) / 2) / (p * (n - p))""",
        "rmse": f"{in_units}\nreturn errors.square().mean(0).sqrt().mean().item()",
        "mae": f"{in_units}\nreturn errors.abs().mean(0).mean().item()",
        "r2": f"""{in_units}
squares, true = errors.square().sum(0), true - true[0]
spread = true.square().sum(0) - true.sum(0).square() / len(targets)
return torch.where(spread > 0, 1 - squares / spread, torch.nan).mean().item()""",
    }
    if name not in bodies or any(target.transform == "count" for target in schema.targets):
        raise RunError(
            f"the run was decided by {monitor}, which eject does not know",
            hint="train with --monitor valid_loss",
            code="run-cannot-eject",
        )
    return f'''
def monitored(outputs, targets):
    """Return {monitor}: the figure that decides which epoch is the best."""
{indented(bodies[name], 4)}
'''
