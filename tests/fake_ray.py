"""What the executor uses of Ray, in threads of this process."""

import ctypes
import threading
import time
from types import SimpleNamespace


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class TaskCancelledError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


exceptions = SimpleNamespace(
    RayError=RayError,
    NodeDiedError=NodeDiedError,
    OutOfMemoryError=OutOfMemoryError,
    TaskCancelledError=TaskCancelledError,
    RayTaskError=RayTaskError,
)


class Task(threading.Thread):
    """A generator that runs on; `next` is what it yielded, or how it ended."""

    def __init__(self, function, arguments, options):
        super().__init__(daemon=True)
        self.function, self.arguments, self.options = function, arguments, options
        self.told = []
        self.start()

    def run(self):
        try:
            for value in self.function(*self.arguments):
                self.told.append(value)
            self.told.append(StopIteration())
        except KeyboardInterrupt:
            self.told.append(TaskCancelledError("cancelled"))
        except RayError as error:
            self.told.append(error)
        except BaseException as error:
            self.told.append(RayTaskError(error))

    def __next__(self):
        return self.told.pop(0)


class FakeRay:
    exceptions = exceptions

    def __init__(self):
        self.options = []

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}]

    def remote(self, function):
        def options(**options):
            self.options.append(options)
            start = lambda *arguments: Task(function, arguments, options)  # noqa: E731
            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, tasks, timeout):
        ready = [task for task in tasks if task.told]
        if not ready:
            time.sleep(0.02)
        return ready, []

    def get(self, value):
        if isinstance(value, Exception):
            raise value
        return value

    def cancel(self, task, force=False):
        raised = ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(task.ident), raised)
