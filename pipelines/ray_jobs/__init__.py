"""What graphs and tasks of Ray share: pools of actors, settings of Ray Data, errors of tasks."""
