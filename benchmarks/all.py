"""Every measurement, one after the other."""

from __future__ import annotations

from benchmarks import checking_time, plugin_cost, workers

if __name__ == "__main__":
    plugin_cost.main()
    checking_time.main()
    workers.main()
