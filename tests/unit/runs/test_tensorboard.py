from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_dash.runs.record import Recorder


def test_a_resumed_run_keeps_the_values_of_its_checkpoints_step(tmp_path):
    def recorder():
        return Recorder(True, tmp_path / "metrics.jsonl", 10, False, tmp_path / "board")

    first = recorder()
    for step in range(1, 6):
        first.write("train", step, 0.0, loss=[float(step)])
        if step == 4:
            position = first.position()
    first.close()  # killed after step 5, its newest set is of step 4
    again = recorder()
    again.rewind(**position)
    again.event(4, 0.0, "continuing")
    for step in (5, 6):
        again.write("train", step, 0.0, loss=[step + 0.5])
    again.close()
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    found = [(event.step, event.value) for event in board.Scalars("train/loss/00")]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.5), (6, 6.5)]
