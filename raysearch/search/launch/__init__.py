"""The laptop's side of a cluster: check its file, bring it up, run a search there, take it down.

clusterfile.py   the file, with the line of each key, and what we read out of it
checks.py        what is wrong with it, found offline; nodes_*.py know the providers
handout.py       what is made here and sent to the nodes: the token, the wheel
bringup.py       up and down, through Ray's own launcher
tunnel.py        the way to the head's dashboard, over ssh, mended when it breaks
job.py           the Ray Job: submitted, followed, attached to
launch.py        all of it in order: `raysearch tune --cluster`
"""
