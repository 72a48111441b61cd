"""The command line `secfed`: federated training, budgets and attacks to try without writing code."""
