"""Where the command starts: an interrupt while its libraries load is one line, as it is later."""

import sys


def main() -> None:
    """Load the command and run it."""
    try:
        from mnndask.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("mnndask: interrupted; nothing was written\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
