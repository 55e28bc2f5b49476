"""The threat model of docs/security.md: each threat has tests, and the tests exist."""

from __future__ import annotations

import ast

import pytest

from tests.service import ROOT
from tests.test_docs import tables

pytestmark = pytest.mark.docs

*_, ROWS = [found for found in tables((ROOT / "docs" / "security.md").read_text()) if found]

# The tests of each threat, in the words of the document.
TESTS = {
    "Another machine uses a service that has no keys": [
        "tests/access/test_loopback.py::test_it_does_not_start_where_others_reach_it",
    ],
    "A custom gunicorn configuration bypasses that check": [
        "tests/access/test_loopback.py::test_who_gets_around_that_finds_it_closed_to_others",
    ],
    "A route is served without authentication by mistake": [
        "tests/access/test_auth.py::test_no_route_is_served_without_a_key",
        "tests/access/test_auth.py::test_nor_is_it_told_what_there_is",
    ],
    "An inference key unloads other users' models": [
        "tests/access/test_auth.py::test_a_key_for_text_loads_nothing",
        "tests/access/test_auth.py::test_nor_does_it_unload_in_ollamas_way",
    ],
    "The keys file is copied": [
        "tests/access/test_keys.py::test_the_file_holds_hashes_alone_and_is_its_owners",
    ],
    "Another local user adds a key to the keys file": [
        "tests/access/test_keys.py::test_a_file_that_breaks_leaves_the_keys_as_they_were",
    ],
    "A lost key remains valid": [
        "tests/access/test_keys.py::test_a_service_without_keys_is_closed_by_the_first_one_and_follows_the_file",
        "tests/access/test_keys.py::test_an_expired_key_is_refused",
    ],
    "Emptying or deleting the keys file opens the service": [
        "tests/access/test_keys.py::test_an_empty_file_lets_nobody_in",
    ],
    "Keys appear in logs": [
        "tests/access/test_auth.py::test_the_log_has_the_id_of_a_key_and_never_the_key",
    ],
    "An engine or one of its packages leaks keys": [
        "tests/access/test_auth.py::test_no_process_of_an_engine_is_told_a_key",
    ],
    "A web page resolves its own name to this machine (DNS rebinding)": [
        "tests/access/test_proxy_cors.py::test_who_calls_it_by_another_name_is_refused",
        "tests/access/test_proxy_cors.py::test_a_docker_service_name_needs_keys",
    ],
    "A web page sends requests and ignores the responses (CSRF)": [
        "tests/access/test_proxy_cors.py::test_a_page_from_elsewhere_is_refused_while_there_are_no_keys",
    ],
    "A web page reads responses": [
        "tests/access/test_proxy_cors.py::test_no_page_is_allowed_by_default",
        "tests/access/test_proxy_cors.py::test_an_allowed_page_may_ask_and_read",
    ],
    "A client forges `X-Forwarded-For`": [
        "tests/access/test_proxy_cors.py::test_an_address_is_believed_from_trusted_proxies_only",
    ],
    "One key uses the whole capacity": [
        "tests/access/test_rate_limiter.py::test_requests_are_counted_over_all_workers",
        "tests/access/test_rate_limiter.py::test_tokens_are_taken_in_advance_and_corrected",
    ],
    "One key fills the queue and starves the others": [
        "tests/supervisor/test_fair_queue.py::test_one_request_does_not_wait_for_a_hundred_of_another",
        "tests/supervisor/test_fair_queue.py::test_keys_share_an_engine",
        "tests/access/test_flood.py::test_a_flood_of_one_key_leaves_places_for_another",
    ],
    "Cached responses bypass the rate limits": [
        "tests/access/test_rate_limiter.py::test_answers_from_the_cache_count_too",
    ],
    "Keys and responses are read on the network": [
        "tests/access/test_tls.py::test_chats_and_streams_over_tls",
    ],
    "Disconnects over TLS go unnoticed and keep an engine slot busy": [
        "tests/access/test_tls.py::test_a_disconnect_frees_the_slot",
    ],
    "Another local user reads `.env`": [
        "tests/access/test_secret_checks.py::test_a_readable_env_file_is_a_warning",
    ],
    "Another local user reads log files": [
        "tests/logs/test_log_permissions.py::test_log_files_are_not_readable_by_others",
    ],
    "Another local user creates the runtime folder first, with the pid file of another process": [
        "tests/control/test_runtime_dir.py::test_the_pid_file_of_another_user_is_ignored",
        "tests/control/test_runtime_dir.py::test_what_is_no_file_is_no_pid_file",
    ],
    "A backup or copy of the folder exposes secrets": [
        "tests/access/test_secret_checks.py::test_settings_are_kept_encrypted_with_a_key_in_a_file",
        "tests/access/test_secret_checks.py::test_the_key_may_be_in_the_keychain",
    ],
    "The encrypted settings are modified": [
        "tests/access/test_secret_checks.py::test_what_cannot_be_decrypted_stops_the_start",
    ],
    "An error about an invalid setting shows a secret": [
        "tests/access/test_secret_checks.py::test_no_message_shows_a_key",
    ],
    "A long list, object or text in any field": [
        "tests/gateway/test_scaling.py::test_twice_as_much_takes_twice_as_long",
        "tests/gateway/test_scaling.py::test_twice_as_many_turns_take_twice_as_long",
        "tests/gateway/test_scaling.py::test_a_limit_is_named",
    ],
    "A body larger than the memory, with a length or chunked": [
        "tests/gateway/test_errors.py::test_a_body_that_is_too_large_is_413",
        "tests/gateway/test_input.py::test_a_body_in_chunks_is_refused_where_it_becomes_too_large",
        "tests/gateway/test_input.py::test_a_body_that_is_refused_is_not_worked_on",
    ],
    "A false `Content-Length`": [
        "tests/gateway/test_input.py::test_a_length_that_is_a_lie_harms_nobody",
    ],
    "A body that arrives slowly holds a connection": [
        "tests/gateway/test_input.py::test_a_body_that_stops_coming_is_given_up",
        "tests/gateway/test_input.py::test_a_body_that_comes_steadily_may_take_longer",
    ],
    "Clients send most of large bodies and stop": [
        "tests/gateway/test_body_memory.py::test_half_sent_bodies_of_one_key_leave_memory_for_another",
    ],
    "A client requests a large response and does not read it": [
        "tests/gateway/test_slow_readers.py::test_one_that_reads_nothing_is_given_up",
        "tests/gateway/test_slow_readers.py::test_one_that_reads_slowly_gets_everything",
    ],
    "Hundreds of connections that never finish their request head": [
        "tests/gateway/test_input.py::test_connections_that_say_nothing_make_room_for_those_that_do",
        "tests/gateway/test_input.py::test_slow_clients_a_large_body_and_a_huge_schema_at_once",
    ],
    "Connections that never finish their TLS handshake": [
        "tests/gateway/test_input.py::test_handshakes_have_a_time",
    ],
    "JSON with extreme nesting, numbers, strings or arrays": [
        "tests/gateway/test_input.py::test_json_that_is_made_to_hurt",
    ],
    "A prompt of megabytes, or of a million messages, for a small context": [
        "tests/gateway/test_input.py::test_a_hopeless_prompt_never_reaches_the_engine",
    ],
    "A schema, regex or grammar that takes minutes or all memory to compile": [
        "tests/chat/test_grammar_checker.py::test_what_would_hang_or_kill_is_refused",
        "tests/chat/test_grammar.py::test_a_huge_schema_is_quick_or_refused",
        "tests/chat/test_json_schema.py::test_a_contract_is_refused_with_the_path",
    ],
    "A chat template that never ends, or takes all memory": [
        "tests/chat/test_sandbox.py::test_a_template_is_stopped_at_its_limits",
        "tests/chat/test_sandbox.py::test_a_process_of_the_sandbox_knows_no_secrets",
        "tests/gateway/test_template_limits.py::test_a_template_in_the_folder_does_not_stop_a_worker",
        "tests/gateway/test_template_limits.py::test_the_supervisor_loads_such_a_model",
        "tests/gateway/test_template_limits.py::test_llama_cpp_does_not_run_it_either",
    ],
    "Slow schemas, grammars or templates of one API key delay other keys": [
        "tests/chat/test_sandbox.py::test_callers_that_wait_take_turns",
        "tests/gateway/test_sandbox_turns.py::test_another_key_does_not_wait_for_slow_grammars",
        "tests/gateway/test_sandbox_turns.py::test_grammars_of_clients_that_left_are_not_compiled",
    ],
    "A schema that takes minutes to validate arguments against, or refers to other hosts": [
        "tests/chat/test_json_schema.py::test_values_are_validated_in_another_process",
        "tests/chat/test_json_schema.py::test_references_to_other_hosts_are_not_followed",
    ],
    "A model name that is a path": [
        "tests/gateway/test_input.py::test_a_name_of_a_model_is_never_a_path",
    ],
    "A symbolic link in `MODELS_DIR` that leads outside": [
        "tests/models/test_links.py::test_links_that_lead_out_are_not_followed",
    ],
    "A model that ships its own code": [
        "tests/engines/vllm/test_sizing.py::test_no_code_of_a_model_is_trusted",
        "tests/engines/mlx/test_load.py::test_code_in_a_model_folder_is_not_executed",
    ],
    "Weights in a pickle, which executes code when loaded": [
        "tests/models/test_safetensors.py::test_pickled_weights_are_refused_by_name",
        "tests/models/test_safetensors.py::test_a_pickle_under_another_name_is_refused",
    ],
    "A malformed GGUF file that crashes its reader": [
        "tests/models/test_gguf.py::test_hostile_files",
        "tests/models/test_gguf.py::test_gigabytes_of_empty_strings_are_refused_at_once",
        "tests/models/test_gguf_fuzz.py::test_damaged_files_only_ever_raise_gguf_error",
    ],
    "Prompts, completions or keys in logs, metrics, pages or files": [
        "tests/test_privacy.py::test_every_route",
        "tests/test_privacy.py::test_requests_that_go_wrong",
        "tests/logs/test_logs.py::test_server_errors_do_not_quote_the_request",
        "tests/logs/test_logs.py::test_messages_of_exceptions_are_omitted",
    ],
    "An engine prints a prompt, also while it crashes": [
        "tests/supervisor/test_log_redaction.py::test_what_may_be_a_prompt_is_not",
        "tests/test_privacy.py::test_crashes",
    ],
    "A core file contains prompts and keys": [
        "tests/test_privacy.py::test_crashes",
        "tests/test_privacy.py::test_a_core_is_left_where_the_owner_wants_it",
    ],
    "A key learns another key's prompts from `cached_tokens` or timing": [
        "tests/contract/test_cache_isolation.py::test_a_prompt_warms_its_own_keys_cache_only",
        "tests/supervisor/test_slot_affinity.py::test_a_callers_own_prompt_is_found_again_and_nobody_elses",
        "tests/supervisor/test_slot_affinity.py::test_who_never_asked_leaves_the_slot_a_strangers",
        "tests/engines/test_cache_isolation.py::test_a_kept_cache_is_found_with_its_salt_only",
    ],
    "A key receives another key's completion from the response cache": [
        "tests/contract/test_cache_isolation.py::test_an_answer_is_kept_for_the_key_that_asked",
    ],
    "An engine or library sends usage data to its vendor": [
        "tests/contract/test_cache_isolation.py::test_every_process_of_an_engine_is_told_to_report_nothing",
        "tests/contract/test_cache_isolation.py::test_who_talks_to_others_would_be_seen",
    ],
    "A killed service leaves files behind": [
        "tests/control/test_stale_instances.py::test_after_a_kill_of_everything_the_next_service_clears_up",
        "tests/control/test_stale_instances.py::test_who_lives_begins_or_is_somebody_else_is_left_alone",
    ],
    "Input crafted to break a parser, the engine stream reader or the control socket": [
        "tests/fuzz/test_core.py::test_nothing_but_the_documented_errors",
    ],
}


def test_each_threat_of_the_document_has_tests_here() -> None:
    assert [row[0] for row in ROWS] == list(TESTS)
    assert all(mitigation and len(row) == 2 for row in ROWS for mitigation in row[1:])


@pytest.mark.parametrize("threat", TESTS)
def test_each_test_of_a_threat_exists(threat: str) -> None:
    assert TESTS[threat]
    for name in TESTS[threat]:
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
        assert function.startswith("test_") and function in functions, f"{file} has no {function}"
