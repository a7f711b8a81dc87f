"""A load test with the preset `office`, on a live server. It has Locust's own web page and options:

    imsim serve office --port 8765
    locust -f locustfiles/office.py -H ws://127.0.0.1:8765

One Locust user is one device. `-u` sets the count of devices (default: the scenario's population). `-t` sets how long
messages are sent (default: the scenario's duration). Each message is sent at its planned time, even if the server is
slow. Each test writes a run to results/. docs/load-testing.md shows more.

    --imsim-scenario NAME|FILE   a preset or a TOML file (default: office)
    --imsim-seed N               the seed (default: the scenario's)
    --imsim-adapter NAME         the kind of server: imsim, mqtt, xmpp ... (default: imsim)
    --imsim-option NAME=VALUE    an option of the adapter; repeatable
    --imsim-key KEY              the server's key (default: the environment variable IMSIM_KEY, or "imsim")
    --imsim-run NAME             prefix of this run's users, groups and messages (default: random)
    --imsim-out DIR              parent of the run's folder (default: results)
"""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
