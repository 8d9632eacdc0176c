"""The packages here stand for somebody else's. They are tested after installation, by tests/hub/test_third_party.py."""

collect_ignore_glob = ["*"]
