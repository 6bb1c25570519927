"""What is done with a sweep: run, resume, extend, refit, replay."""
