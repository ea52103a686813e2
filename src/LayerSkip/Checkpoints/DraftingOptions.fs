namespace LayerSkip

/// Who proposes tokens, as options name it.
[<RequireQualifiedAccess>]
type DrafterKind =
    /// The first layers, through the shared head.
    | Exit
    /// What the text, or a past one, said before.
    | Lookup
    /// Lookup where it promises more, else an exit.
    | Cascade
    /// The first layers and an adapter that was trained for them.
    | Adapter
    /// Some of the layers, while the others are left out.
    | Layers

[<RequireQualifiedAccess>]
module DrafterKind =
    /// All.
    let all = [
        DrafterKind.Exit
        DrafterKind.Lookup
        DrafterKind.Cascade
        DrafterKind.Adapter
        DrafterKind.Layers
    ]

    /// As options and reports spell it: "exit".
    let name (kind: DrafterKind) : string =
        match kind with
        | DrafterKind.Exit -> "exit"
        | DrafterKind.Lookup -> "lookup"
        | DrafterKind.Cascade -> "cascade"
        | DrafterKind.Adapter -> "adapter"
        | DrafterKind.Layers -> "layers"

/// What decides how each round drafts, as options name it.
[<RequireQualifiedAccess>]
type DraftPolicyKind =
    /// The same exit and length each time; a stop rule may end a draft sooner.
    | Static
    /// What pays, token by token, or nothing.
    | Auto
    /// DEL's choice of exit and length, for comparison.
    | Del

[<RequireQualifiedAccess>]
module DraftPolicyKind =
    /// All.
    let all = [ DraftPolicyKind.Static; DraftPolicyKind.Auto; DraftPolicyKind.Del ]

    /// As options and reports spell it: "static".
    let name (kind: DraftPolicyKind) : string =
        match kind with
        | DraftPolicyKind.Static -> "static"
        | DraftPolicyKind.Auto -> "auto"
        | DraftPolicyKind.Del -> "del"

/// How drafts are to be made, as far as that is said; None leaves it to the model and to us.
[<NoEquality; NoComparison>]
type DraftingOptions = {
    Drafter: DrafterKind option
    Policy: DraftPolicyKind option
    StopRule: StopRuleKind option
    /// The layer to leave after, 1 to L-1; with policy auto the one that drafts at first.
    ExitLayer: int option
    /// The most tokens of a round's draft, 1 or more.
    DraftLength: int option
    /// As `ContextVocabulary.parse` reads it: auto, all, a number of ids, or a file with a list of them.
    DraftVocabulary: string option
    /// Layers that draft, as `LayerSet.tryParse` reads them.
    LayersKept: string option
    /// Texts written before, where lookup also looks.
    Past: PastTexts option
    /// Which drafts are kept; None: what is exact.
    Acceptance: AcceptanceRule option
}

[<RequireQualifiedAccess>]
module DraftingOptions =
    /// Nothing is said.
    let none: DraftingOptions = {
        Drafter = None
        Policy = None
        StopRule = None
        ExitLayer = None
        DraftLength = None
        DraftVocabulary = None
        LayersKept = None
        Past = None
        Acceptance = None
    }

    /// Which options say something, as the command line spells them, and what.
    let given (options: DraftingOptions) : (string * string) list =
        [
            "drafter", options.Drafter |> Option.map DrafterKind.name
            "policy", options.Policy |> Option.map DraftPolicyKind.name
            "stop-rule", options.StopRule |> Option.map StopRule.spell
            "exit-layer", options.ExitLayer |> Option.map string
            "draft-length", options.DraftLength |> Option.map string
            "draft-vocabulary", options.DraftVocabulary
            "layers-kept", options.LayersKept
            "past-texts", options.Past |> Option.map (fun _ -> "given")
            "acceptance", options.Acceptance |> Option.map _.Name
        ]
        |> List.choose (fun (name, value) -> value |> Option.map (fun value -> name, value))

    /// The names alone.
    let named (options: DraftingOptions) : string list = given options |> List.map fst
