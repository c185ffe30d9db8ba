//! Black-box tests: the stock docker CLI against a daemon started for them. See `tests/`.
