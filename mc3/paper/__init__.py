"""The paper's results: tables, figures, claims, notebooks, sweeps and the report."""
