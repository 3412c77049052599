"""The targets: each plays a script against one part of the service and judges what comes back."""
