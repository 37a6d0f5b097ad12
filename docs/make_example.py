"""Write an example CSV for docs/add_a_model.md: readings of machines, some of which fail.

Standard library only. A machine that is hot and loaded fails more often; one column is noise.
"""

import csv
import math
import random
import sys
from datetime import UTC, datetime, timedelta

ROWS, DAYS = 12_000, 90
chance = random.Random(4)  # noqa: S311 - an example, no secret
with open(sys.argv[1], "w", newline="") as file:  # noqa: PTH123
    table = csv.writer(file)
    table.writerow("reading_id,read_at,machine_id,shop,temperature,load,humidity,failed".split(","))
    for number in range(ROWS):
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=DAYS * number / ROWS)
        temperature, load = chance.gauss(60, 12), chance.uniform(0, 100)
        shop = chance.choice(("north", "south", "west"))
        wear = (temperature - 60) / 14 + load / 30 + (shop == "west") - 5.2
        failed = chance.random() < 1 / (1 + math.exp(-1.6 * wear))
        machine, humidity = chance.randrange(150), chance.uniform(20, 90)
        table.writerow(
            [number, moment.isoformat(timespec="seconds"), machine, shop]
            + [f"{value:.2f}" for value in (temperature, load, humidity)]
            + [int(failed)]
        )
