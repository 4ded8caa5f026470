"""The trainer."""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in str(record.msg))
"""It tells everybody whose processor knows bfloat16 to install a package that nothing here uses (4-bit weights)."""
