"""SQL over a lake's tables, with searches as table functions; it reads these tables and nothing else."""
