"""`python -m proxyvpn`."""

from proxyvpn.cli import main

if __name__ == "__main__":
    main()
