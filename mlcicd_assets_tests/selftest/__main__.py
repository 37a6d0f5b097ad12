"""`make selftest`."""

import sys

from mlcicd_assets_tests.selftest.run import main

if __name__ == "__main__":
    sys.exit(main())
