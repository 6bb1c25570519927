"""MLflow's record of sweeps as tables."""
