namespace LayerSkip.Cli

open System
open LayerSkip

/// What a `serve` command line gives. None where it leaves the choice to the server.
type internal ServeOptions = {
    Host: string option
    Port: int option
    ApiKey: string option
    ModelName: string option
    CorsOrigins: string list
    /// But for the bytes of its caches, which `KvMib` says.
    Engine: EngineOptions
    KvMib: int option
    MaxPromptTokens: int option
    MaxBodyMib: int option
    RequestSeconds: int option
    ShutdownSeconds: int option
    Drafting: StrategyChoice
    AdapterFile: string option
}

/// Reads the options of `layerskip serve`.
[<RequireQualifiedAccess>]
module internal ServeOptions =
    /// Where a key may stand that is not to be seen among the machine's processes.
    let keyVariable = "LAYERSKIP_API_KEY"

    let private none: ServeOptions = {
        Host = None
        Port = None
        ApiKey = None
        ModelName = None
        CorsOrigins = []
        Engine = EngineOptions.defaults
        KvMib = None
        MaxPromptTokens = None
        MaxBodyMib = None
        RequestSeconds = None
        ShutdownSeconds = None
        Drafting = StrategyChoice.none
        AdapterFile = None
    }

    let private add (given: ServeOptions) (argument: ServeArgument) : ServeOptions =
        match argument with
        | ServeArgument.Host address -> { given with Host = Some address }
        | ServeArgument.Port port -> { given with Port = Some port }
        | ServeArgument.ApiKey key -> { given with ApiKey = Some key }
        | ServeArgument.ServedModelName name -> { given with ModelName = Some name }
        | ServeArgument.CorsOrigin origin -> { given with CorsOrigins = given.CorsOrigins @ [ origin ] }
        | ServeArgument.Slots count -> { given with Engine.Slots = count }
        | ServeArgument.Queue count -> { given with Engine.Queue = count }
        | ServeArgument.PrefixTexts count -> { given with Engine.PrefixTexts = count }
        | ServeArgument.KvMemory mib -> { given with KvMib = Some mib }
        | ServeArgument.MaxPromptTokens count -> { given with MaxPromptTokens = Some count }
        | ServeArgument.MaxBody mib -> { given with MaxBodyMib = Some mib }
        | ServeArgument.RequestTimeout seconds -> { given with RequestSeconds = Some seconds }
        | ServeArgument.ShutdownTimeout seconds -> { given with ShutdownSeconds = Some seconds }
        | ServeArgument.Strategy name -> { given with Drafting.Strategy = Some(StrategyName.kind name) }
        | ServeArgument.ExitLayer exit -> { given with Drafting.Drafting.ExitLayer = Some exit }
        | ServeArgument.DraftLength length -> { given with Drafting.Drafting.DraftLength = Some length }
        | ServeArgument.Drafter drafter -> { given with Drafting.Drafting.Drafter = Some drafter }
        | ServeArgument.Policy policy -> { given with Drafting.Drafting.Policy = Some policy }
        | ServeArgument.StopRule rule -> {
            given with
                Drafting.Drafting.StopRule = Some(DraftingArguments.rule rule)
          }
        | ServeArgument.DraftVocabulary ids -> { given with Drafting.Drafting.DraftVocabulary = Some ids }
        | ServeArgument.LayersKept layers -> { given with Drafting.Drafting.LayersKept = Some layers }
        | ServeArgument.AdapterFile file -> { given with AdapterFile = Some file }

    /// Reads what `serve` was given, and the environment's key; every number outside its range is refused at once.
    let read (arguments: ServeArgument list) : ServeOptions =
        let given = List.fold add none arguments

        let least (number: int) option (value: int option) =
            value |> Option.toList |> List.collect (Check.atLeast number option)

        let notEmpty option what (text: string option) =
            text |> Option.iter (fun text -> Inputs.notEmpty option what text |> ignore)

        notEmpty "api-key" "a key" given.ApiKey
        notEmpty "served-model-name" "what clients call the model" given.ModelName
        Drafters.checkFile given.AdapterFile given.Drafting.Drafting

        Inputs.refuse [
            yield! least 0 "port" given.Port
            yield! least 1 "max-prompt-tokens" given.MaxPromptTokens
            yield! least 1 "max-body" given.MaxBodyMib
            yield! least 1 "request-timeout" given.RequestSeconds
            yield! least 1 "shutdown-timeout" given.ShutdownSeconds
            yield! least 1 "kv-memory" given.KvMib
            yield! EngineOptions.faults given.Engine
            yield! StrategyChoice.exclusions given.Drafting
        ]

        let ofEnvironment =
            match Environment.GetEnvironmentVariable keyVariable with
            | null
            | "" -> None
            | key -> Some key

        { given with ApiKey = given.ApiKey |> Option.orElse ofEnvironment }
