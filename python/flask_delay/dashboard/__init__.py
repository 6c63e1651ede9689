"""The live page behind `Delay.dashboard_blueprint`. Nothing of it is imported before that call."""
