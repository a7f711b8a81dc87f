"""The preset `office` on a live server, with Locust's own web page and options:

    imsim serve office --port 8765
    locust -f locustfiles/office.py -H ws://127.0.0.1:8765

One Locust user is one device. `-u` sets the size of the population (default: the scenario's), `-t` for how long
messages are sent; each goes out at its planned time, whatever the server does. Each test leaves a run under results/.

    --imsim-scenario NAME|FILE   another preset, or a TOML file
    --imsim-seed N               another seed than the scenario's
    --imsim-key KEY              the server's key, if it is not the default (or the environment's IMSIM_KEY)
    --imsim-run NAME             prefix of this run's users, groups and messages, if not a new random one
    --imsim-out DIR              where the run's folder is made, if not in results/
"""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
