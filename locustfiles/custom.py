"""A shop: customers ask, assistants answer. The users' tasks replace the plan of the scenario.

    imsim serve office --port 8765
    locust -f locustfiles/custom.py -H ws://127.0.0.1:8765 --headless

This is the example of docs/custom-users.md, which describes `self.im`.
"""

from locust import between, task

from imsim import Scenario
from imsim.load.users import IMUser

# The scenario says how many users there are, in which groups they are, and how long the test lasts.
SHOP = Scenario.load("office", {"population.users": 40, "duration": "20s"})


class Customer(IMUser):
    scenario = SHOP
    plays_plan = False  # only the tasks send
    weight = 3  # three customers for each assistant
    wait_time = between(1, 3)  # seconds between two tasks

    @task(3)
    def ask(self):
        question = self.im.send_text(self.im.friend(), "Is it there in blue?")
        if not question.wait_delivered(timeout=5):
            print(f"{self.im.user}: {question.id} did not arrive: {question.error}")
            return
        self.im.expect(text="Yes", timeout=2)  # no answer if the friend is a customer

    @task
    def greet_a_group(self):
        group = self.im.open_group([self.im.friend(), self.im.pair()])
        self.im.send_text(group, "Hello, all.")

    @task
    def travel(self):
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
