"""What eject copies out; it imports nothing of Luthier."""
