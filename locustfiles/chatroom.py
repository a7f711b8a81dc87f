"""A chatroom with a large audience: the preset `chatroom`."""

from imsim.load.users import IMUser


class Chatroom(IMUser):
    scenario = "chatroom"
