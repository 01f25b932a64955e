"""`python -m flow3r.cli`"""

from flow3r.cli import main

if __name__ == "__main__":
    main()
