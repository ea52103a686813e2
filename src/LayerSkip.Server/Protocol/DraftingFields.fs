namespace LayerSkip.Server

open LayerSkip

/// What `strategy` names, in the command's words.
[<RequireQualifiedAccess>]
type StrategyWord =
    | Autoregressive
    | EarlyExit
    | SelfSpeculative

/// How a request wants its text to be drafted; what it leaves open is the model's to recommend, as in the command.
[<NoEquality; NoComparison>]
type DraftingRequest = {
    Strategy: StrategyWord option
    /// The exit layer is early-exit's too.
    Options: DraftingOptions
}

[<RequireQualifiedAccess>]
module DraftingRequest =
    /// Nothing is said.
    let none: DraftingRequest = { Strategy = None; Options = DraftingOptions.none }

    /// Whether something is.
    let saysNothing (request: DraftingRequest) : bool =
        request.Strategy.IsNone && (DraftingOptions.named request.Options).IsEmpty

/// The fields that choose a drafting: `strategy`, `exit_layer`, `draft_length`, `policy`, `drafter`, `stop_rule`, `draft_vocabulary`,
/// `layers_kept`, with the command's words.
[<RequireQualifiedAccess>]
module internal DraftingFields =
    let private strategies = [
        "autoregressive", StrategyWord.Autoregressive
        "early-exit", StrategyWord.EarlyExit
        "self-speculative", StrategyWord.SelfSpeculative
    ]

    let private named (name: 'T -> string) (all: 'T list) = all |> List.map (fun value -> name value, value)

    let private stopRule (reader: RequestReader) : StopRuleKind option =
        match reader.Text "stop_rule" |> Option.map StopRule.tryParse with
        | Some(Ok rule) -> Some rule
        | Some(Error faults) ->
            reader.Add [
                for fault in faults -> { Field = "stop_rule"; Text = LayerSkipError.message fault }
            ]
            None
        | None -> None

    // The command takes a file here too; no request may name one of the server's.
    let private vocabulary (reader: RequestReader) : string option =
        match reader.TryField "draft_vocabulary" with
        | Some value when value.ValueKind = System.Text.Json.JsonValueKind.Number ->
            reader.Whole("draft_vocabulary", 1, System.Int32.MaxValue) |> Option.map string
        | _ -> reader.Word("draft_vocabulary", [ "auto", "auto"; "all", "all" ])

    /// What the strategy has no use for would be ignored in silence.
    let private exclusions (reader: RequestReader) (request: DraftingRequest) =
        let excluded strategy why (options: string list) =
            for option in options do
                reader.Fault(option.Replace('-', '_'), $"does not go with strategy {strategy}, which {why}")

        match request.Strategy, DraftingOptions.named request.Options with
        | Some StrategyWord.Autoregressive, named -> excluded "autoregressive" "drafts nothing" named
        | Some StrategyWord.EarlyExit, named ->
            named |> List.filter ((<>) "exit-layer") |> excluded "early-exit" "drafts nothing"
        | _ -> ()

    /// Reads them.
    let read (reader: RequestReader) : DraftingRequest =
        let request = {
            Strategy = reader.Word("strategy", strategies)
            Options = {
                DraftingOptions.none with
                    ExitLayer = reader.Whole("exit_layer", 1, System.Int32.MaxValue)
                    DraftLength = reader.Whole("draft_length", 1, Strategy.LongestDraft)
                    Policy = reader.Word("policy", named DraftPolicyKind.name DraftPolicyKind.all)
                    Drafter = reader.Word("drafter", named DrafterKind.name DrafterKind.all)
                    StopRule = stopRule reader
                    DraftVocabulary = vocabulary reader
                    LayersKept = reader.Text "layers_kept"
            }
        }

        exclusions reader request
        request
