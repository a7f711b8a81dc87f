"""A shop: customers ask, assistants answer. The users' tasks replace the plan of the scenario.

    imsim serve office --port 8765
    locust -f locustfiles/custom.py -H ws://127.0.0.1:8765 --headless

docs/custom-users.md describes `self.im`.
"""

from locust import between, task

from imsim import Scenario
from imsim.load.users import IMUser

# The population, the groups and the time of the test.
SHOP = Scenario.load("office", {"population.users": 40, "duration": "20s"})


class Customer(IMUser):
    scenario = SHOP
    plays_plan = False
    weight = 3
    wait_time = between(1, 3)  # seconds between two tasks

    @task(5)
    def ask(self):
        question = self.im.send_text(self.im.friend(), "Is it there in blue?")
        question.wait_delivered(timeout=5)
        self.im.expect(text="blue", timeout=5)

    @task
    def tell_the_group(self):
        group = self.im.open_group([self.im.friend(), self.im.friend()])
        self.im.send_text(group, "It is there in blue!")

    @task
    def lose_the_network(self):
        self.im.go_offline()
        self.wait()
        self.im.come_online()


class Assistant(IMUser):
    scenario = SHOP
    plays_plan = False

    @task
    def answer(self):
        question = self.im.expect(text="in blue?", timeout=1)
        if question is not None:
            self.im.read(question)
            self.im.send_text(question.sender, "Yes, in blue and in red.")
