"""How the U-Net learns: loop, loss, schedules, states for resuming."""
