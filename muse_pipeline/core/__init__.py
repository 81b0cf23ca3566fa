"""What every part shares: types, coordinates, errors, files, configs, plug-ins, the environment."""
