"""The one-machine playground, its workload and its stand-ins. Never installed on a VM."""
