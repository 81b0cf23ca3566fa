"""Parts shared by all packages: types, coordinates, errors, files, configs, plug-ins, the
environment.
"""
