"""The benchmark: proxyvpn and others like it side by side, in network namespaces; scripts/bench.sh runs it."""
