"""One sweep, from the sweep file to its record in MLflow.

The way of the data:

1. `spec` reads and checks the sweep file: `SweepSpec`.
2. `preparing` loads the task, data, folds and search space: `Prepared`. Wrong input stops here.
3. `sweeps.run.SweepRun` begins the sweep's folder and record, runs the trials, logs the models of
   the best one, and concludes the result. Comparisons and extensions override its steps.
4. `tune.tuner.run_experiment` gives Ray Tune a searcher (`sampling`) and a scheduler
   (`scheduling`). Its workers run `foldrace.trainables.ray.trainable.FoldTrainable`.
5. `tune.callback.SweepCallback` turns each result into a change of the trials in memory, an event
   for the record, and an update of the view.
6. `recording` keeps each event on disk at once, and delivers it to MLflow.
"""
