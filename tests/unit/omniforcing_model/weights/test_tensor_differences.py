from omniforcing_model.weights.tensor_differences import differences


def test_equal_tensors_do_not_differ():
    same = differences({"a": (2, 3), "b": (4,)}, {"b": (4,), "a": (2, 3)})
    assert not same
    assert str(same) == ""


def test_a_tensor_without_elements_may_be_left_out_but_not_have_another_shape():
    assert not differences({"sinks": (0, 5)}, {})
    assert differences({"sinks": (0, 5)}, {"sinks": (1, 5)}).misshaped == (
        "sinks (1, 5) instead of (0, 5)",
    )


def test_differences_are_sorted_and_counted():
    report = differences({"b": (1,), "a": (1,), "c": (2, 3)}, {"z": (1,), "y": (1,), "c": (3, 2)})
    assert report.missing == ("a", "b")
    assert report.unexpected == ("y", "z")
    assert report.misshaped == ("c (3, 2) instead of (2, 3): transposed",)
    assert str(report) == (
        "2 missing: a, b; 2 unexpected: y, z;"
        " 1 of another shape: c (3, 2) instead of (2, 3): transposed"
    )


def test_eight_are_named_and_the_rest_is_counted():
    needed = {f"tensor{number:02d}": (1,) for number in range(10)}
    assert str(differences(needed, {})).endswith("tensor07, and 2 more")
    del needed["tensor00"], needed["tensor01"]
    assert str(differences(needed, {})) == "8 missing: " + ", ".join(sorted(needed))


def test_a_tensor_spelled_otherwise_is_named_beside_the_missing_one():
    report = differences(
        {"layers.3.attention.to_q.weight": (1,)},
        {"layers.3.attention.to_q.weights": (1,), "layers.2.attention.to_q.weight": (1,)},
    )
    shown = "layers.3.attention.to_q.weight (spelled layers.3.attention.to_q.weights?)"
    assert str(report).startswith(f"1 missing: {shown}; 2 unexpected")


def test_a_tensor_of_another_layer_or_of_another_name_is_not_meant():
    for other in ("layers.2.attention.to_q.weight", "layers.3.table"):
        report = differences({"layers.3.attention.to_q.weight": (1,)}, {other: (1,)})
        assert "spelled" not in str(report)
