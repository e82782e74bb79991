"""`python -m speechkit`: the same as `speechkit`."""

from speechkit.cli.main import main

if __name__ == "__main__":
    main()
