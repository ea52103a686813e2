namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// The fields that choose a drafting: `strategy`, `exit_layer`, `draft_length`, `policy`, `drafter`, `stop_rule`, `draft_vocabulary`,
/// `layers_kept`, with the command's words.
[<RequireQualifiedAccess>]
module internal DraftingFields =
    let private named (name: 'T -> string) (all: 'T list) = all |> List.map (fun value -> name value, value)

    let private stopRule (reader: RequestReader) : StopRuleKind option =
        match reader.Text "stop_rule" |> Option.map StopRule.tryParse with
        | Some(Ok rule) -> Some rule
        | Some(Error faults) ->
            reader.Add(List.choose Refusal.tryFault faults)
            None
        | None -> None

    // The command takes a file here too; no request may name one of the server's.
    let private vocabulary (reader: RequestReader) : string option =
        match reader.TryField "draft_vocabulary" with
        | Some value when value.ValueKind = JsonValueKind.Number ->
            reader.Whole("draft_vocabulary", 1, System.Int32.MaxValue) |> Option.map string
        | _ ->
            reader.Read(
                "draft_vocabulary",
                "a number of ids, \"auto\" or \"all\"",
                fun value ->
                    if value.ValueKind = JsonValueKind.String then
                        Some(value.GetString()) |> Option.filter (fun word -> word = "auto" || word = "all")
                    else
                        None
            )

    /// What options go together is known only where those are good that choose a way to draft; what is left of them then can be wrong by
    /// itself alone.
    let private ofUnknownWay (choice: StrategyChoice) : StrategyChoice = {
        StrategyChoice.none with
            Drafting = {
                DraftingOptions.none with
                    ExitLayer = choice.Drafting.ExitLayer
                    DraftVocabulary = choice.Drafting.DraftVocabulary
            }
    }

    /// Reads them; what the strategy has no use for is a fault of its field.
    let read (reader: RequestReader) : StrategyChoice =
        let choice: StrategyChoice = {
            Strategy = reader.Word("strategy", named StrategyKind.name StrategyKind.all)
            Drafting = {
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

        let isKnown = List.forall reader.IsSound [ "strategy"; "policy"; "drafter" ]
        reader.Add(StrategyChoice.exclusions choice |> List.choose Refusal.tryFault)
        if isKnown then choice else ofUnknownWay choice
