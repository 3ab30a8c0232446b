"""The hostile table: a row for every N and S case of the fault catalogue, or where its test is."""

from __future__ import annotations

from tests.hostile.rows_answers import REDIRECTS, SIZES, STATUSES
from tests.hostile.rows_framing import BODIES, HEADS
from tests.hostile.rows_line import LINES
from tests.hostile.rows_ranges import RANGES

ROWS = [*LINES, *RANGES, *HEADS, *BODIES, *SIZES, *REDIRECTS, *STATUSES]

CATALOGUE = [*(f"N{number}" for number in range(1, 24)), *(f"S{number}" for number in range(1, 44))]

# What needs another world than one server and one loopback: file and test.
ELSEWHERE: dict[str, list[tuple[str, str]]] = {
    "N11": [("whole/test_whole_line_loss.py", "test_a_link_that_is_off_for_a_while")],
    "N12": [
        ("whole/test_whole_line_loss.py", "test_another_address_after_a_moment_without"),
        ("whole/test_whole_line_loss.py", "test_another_address_with_a_line_all_the_time"),
        ("whole/test_whole_retry.py", "test_n12_without_a_network_nothing_is_held_against_the_source"),
    ],
    "N13": [("whole/test_whole_bad_line.py", "test_n13_packets_lost_doubled_and_out_of_order")],
    "N16": [
        ("whole/test_whole_bad_answers.py", "test_certificates"),
        ("net/test_tls_trust.py", "test_n16_insecure_is_for_the_named_origin_alone"),
        ("net/test_tls_trust.py", "test_n16_a_certificate_for_another_use"),
    ],
    "N18": [
        ("net/test_proxy.py", "test_n18_407"),
        ("net/test_proxy.py", "test_n18_a_proxy_that_makes_no_tunnel"),
    ],
    "N20": [
        ("net/test_pool.py", "test_n20_old_idle_connections_are_closed"),
        ("net/test_fields.py", "test_s35_retry_after"),
    ],
    "S10": [
        ("whole/test_whole_mirrors.py", "test_a_flipping_mirror_is_named_by_pieces"),
        ("whole/test_whole_mirrors.py", "test_a_flipping_mirror_is_named_by_the_hash_of_the_whole"),
    ],
    "S33": [
        ("whole/test_whole_bad_answers.py", "test_credentials_stay_at_home"),
        ("net/test_client.py", "test_s33_callers_fields_never_cross_an_origin_nor_come_back"),
    ],
    "S41": [
        ("net/test_pool.py", "test_s41_another_trust_is_another_connection"),
        ("net/test_proxy.py", "test_s41_what_is_exempt_is_asked_directly_and_shares_nothing"),
    ],
    "S43": [("net/test_client.py", "test_s43_an_answer_sent_early_is_still_read")],
}
