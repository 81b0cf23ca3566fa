"""Instance masks of tissue that does not exist: glands and stroma drawn from measured statistics, in um."""
