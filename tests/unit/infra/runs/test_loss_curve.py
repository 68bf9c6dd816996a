from infra.runs.loss_curve import CurveFollower, LossCurve, read_curve, recent_means


def written(path, steps, resumed=0):
    curve = LossCurve(path, resumed)
    for step in steps:
        curve.append(step, {"loss": float(step)})
    curve.close()


def steps_of(figures):
    return [of_step["step"] for of_step in figures]


def test_a_follower_sees_every_step_once(tmp_path):
    path = tmp_path / "stage" / "curve.jsonl"
    follower = CurveFollower(path)
    assert follower.new_steps() == []
    curve = LossCurve(path, 0)
    curve.append(1, {"loss": 0.5})
    assert follower.new_steps() == [{"step": 1, "loss": 0.5}]
    assert follower.new_steps() == []
    curve.append(2, {"loss": 0.25})
    curve.append(3, {"loss": 0.125})
    assert steps_of(follower.new_steps()) == [2, 3]
    curve.close()


def test_a_resumed_run_drops_the_steps_it_makes_again(tmp_path):
    path = tmp_path / "curve.jsonl"
    written(path, [1, 2, 3, 4, 5])
    written(path, [4, 5, 6], resumed=3)
    assert steps_of(read_curve(path)) == [1, 2, 3, 4, 5, 6]


def test_a_follower_goes_on_over_a_resume_without_repeating_a_step(tmp_path):
    path = tmp_path / "curve.jsonl"
    follower = CurveFollower(path)
    written(path, [1, 2, 3, 4, 5])
    assert steps_of(follower.new_steps()) == [1, 2, 3, 4, 5]
    written(path, [3, 4, 5, 6, 7], resumed=2)
    assert steps_of(follower.new_steps()) == [6, 7]


def test_a_line_that_is_still_being_written_waits(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    follower = CurveFollower(path)
    assert steps_of(follower.new_steps()) == [1]
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n')
    assert steps_of(follower.new_steps()) == [2]


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    written(path, [2], resumed=1)
    assert steps_of(read_curve(path)) == [1, 2]


def test_recent_means_leave_out_steps_without_a_figure(tmp_path):
    path = tmp_path / "curve.jsonl"
    curve = LossCurve(path, 0)
    curve.append(1, {"critic_loss": 9.0})
    curve.append(2, {"critic_loss": 1.0})
    curve.append(3, {"critic_loss": 3.0, "generator_loss": 5.0})
    curve.close()
    assert recent_means(path, steps=2) == {"critic_loss": 2.0, "generator_loss": 5.0}


def test_recent_means_are_over_fifty_steps_by_default(tmp_path):
    path = tmp_path / "curve.jsonl"
    written(path, range(1, 61))
    assert recent_means(path) == {"loss": sum(range(11, 61)) / 50}
    assert recent_means(tmp_path / "nothing.jsonl") == {}


def test_a_follower_may_begin_after_a_step(tmp_path):
    path = tmp_path / "curve.jsonl"
    written(path, [1, 2, 3])
    assert steps_of(CurveFollower(path, 2).new_steps()) == [3]


def test_a_file_in_its_place_is_read_from_its_beginning_even_if_it_is_longer(tmp_path):
    path, other = tmp_path / "curve.jsonl", tmp_path / "other.jsonl"
    path.write_text('{"step": 1, "loss": 1.0, "generator_loss": 1.0, "critic_loss": 1.0}\n')
    follower = CurveFollower(path)
    assert steps_of(follower.new_steps()) == [1]
    other.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 9)))
    assert other.stat().st_size > path.stat().st_size
    other.replace(path)
    assert steps_of(follower.new_steps()) == [2, 3, 4, 5, 6, 7, 8]
