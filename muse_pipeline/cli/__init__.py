"""The command line, with a module for each verb. The rules of the workflow call these verbs too."""
