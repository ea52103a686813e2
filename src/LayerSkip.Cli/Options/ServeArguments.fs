namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip serve`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal ServeArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Host of address: string
    | [<Unique; EqualsAssignmentOrSpaced>] Port of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--api-key")>] ApiKey of key: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--served-model-name")>] ServedModelName of
        name: string
    | [<EqualsAssignmentOrSpaced; CustomCommandLine("--cors-origin")>] CorsOrigin of origin: string
    | [<Unique; EqualsAssignmentOrSpaced>] Slots of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Queue of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prefix-texts")>] PrefixTexts of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--kv-memory")>] KvMemory of mib: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-prompt-tokens")>] MaxPromptTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-body")>] MaxBody of mib: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--request-timeout")>] RequestTimeout of
        seconds: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--shutdown-timeout")>] ShutdownTimeout of
        seconds: int
    | [<Unique; EqualsAssignmentOrSpaced>] Strategy of StrategyName
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layer")>] ExitLayer of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-length")>] DraftLength of d: int
    | [<Unique; EqualsAssignmentOrSpaced>] Drafter of DrafterKind
    | [<Unique; EqualsAssignmentOrSpaced>] Policy of DraftPolicyKind
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-rule")>] StopRule of rule: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-vocabulary")>] DraftVocabulary of
        ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--layers-kept")>] LayersKept of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--adapter-file")>] AdapterFile of file: string

    interface IArgParserTemplate with
        member this.Usage =
            let engine = EngineOptions.defaults

            match this with
            | Host _ ->
                "the address to listen on (default 127.0.0.1: programs on this machine only). 0.0.0.0 is every network; give a key then, and put TLS in front."
            | Port _ -> "the port to listen on; 0 is any free one (default 8000)."
            | ApiKey _ ->
                "what requests must send as `Authorization: Bearer KEY`, but for /health and the page (default: LAYERSKIP_API_KEY of the environment, which other users of the machine cannot read; else none)."
            | ServedModelName _ -> "what clients call the model (default: the name of its folder or file)."
            | CorsOrigin _ ->
                "an origin whose pages may call the server from a browser, as https://example.org (scheme://host[:port]), or *; may be given several times (default: its own page only)."
            | Slots _ ->
                $"the most texts that are written at once, a round each in turn (default {engine.Slots})."
            | Queue _ ->
                $"the most requests that wait beside those; one more is answered 429 (default {engine.Queue})."
            | PrefixTexts _ ->
                $"the most earlier texts whose caches stay for prompts that begin as they do; 0: none, so that how fast an answer comes tells nobody what others asked (default {engine.PrefixTexts})."
            | KvMemory _ ->
                "the most MiB of all caches, but that one text is always written, whatever it takes (default: half of the memory that is free)."
            | MaxPromptTokens _ ->
                "the longest prompt in tokens, fewer than the context (default: what the context holds)."
            | MaxBody _ -> "the most MiB of a request (default 8)."
            | RequestTimeout _ -> "the most seconds that a request may take (default 600)."
            | ShutdownTimeout _ ->
                "the most seconds that requests may go on after SIGTERM or Ctrl-C; a second signal ends them at once (default 30)."
            | Strategy _ ->
                "how requests are written that say nothing of drafting: autoregressive, self-speculative or early-exit, as in generate; this option and those below have the same words and defaults there."
            | ExitLayer _ -> "the layer E to leave after."
            | DraftLength _ -> "the most tokens that a round drafts."
            | Drafter _ -> "who proposes tokens."
            | Policy _ -> "what decides how each round drafts."
            | StopRule _ -> "what ends a draft before its length does."
            | DraftVocabulary _ -> "the ids that drafts are chosen from."
            | LayersKept _ -> "the layers that draft, with drafter layers."
            | AdapterFile _ -> "the adapter of drafter adapter."
