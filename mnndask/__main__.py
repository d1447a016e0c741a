"""Entry point of the command. An interrupt while libraries load prints one line, as it does later."""

import gc
import sys


def main() -> None:
    """Load the command and run it."""
    gc.disable()  # loading creates no garbage: without collection it takes a third less time
    try:
        from mnndask.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("mnndask: interrupted; nothing was written\n")
        sys.exit(130)
    gc.freeze()  # later collections skip the libraries
    gc.enable()
    run()


if __name__ == "__main__":
    main()
