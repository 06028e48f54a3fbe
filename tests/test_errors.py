from consistentid.errors import first_line


def test_a_heading_alone_says_nothing() -> None:
    torch = RuntimeError("Error(s) in loading state_dict for UNet:\n\tsize mismatch for mid.to_q: (2, 4)\n\tand others")
    assert first_line(torch) == "Error(s) in loading state_dict for UNet: size mismatch for mid.to_q: (2, 4)"
    assert first_line(ValueError("one: two\nthree")) == "one: two"
    assert first_line(ValueError("")) == "ValueError"
    assert first_line(ValueError("nothing follows:")) == "nothing follows:"
