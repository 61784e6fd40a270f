"""What stands in for Colab's own package in the replica of test_colab_versions.py."""
