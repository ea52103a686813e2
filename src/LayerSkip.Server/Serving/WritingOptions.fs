namespace LayerSkip.Server

open System
open LayerSkip

/// What an endpoint makes of what a request leaves open, and adds to it.
[<NoEquality; NoComparison>]
type internal WritingFrame = {
    /// Of requests that say nothing of drafting.
    Drafting: StrategyChoice
    StopIds: int[]
    MaxTokens: int
    /// How many of the likeliest tokens are told of each new token, and of each of the prompt; None: nothing.
    LogProbs: int option
    PromptLogProbs: int option
    /// In place of the request's format.
    Grammar: AskedGrammar option
}

/// How a request's texts are to be written, and by what drafting.
[<NoEquality; NoComparison>]
type internal WritingPlan = {
    Options: GenerationOptions
    /// None: nothing drafts.
    Plan: DraftingPlan option
}

/// From a request's words to the library's options; what a request leaves open is the model's to recommend, as in `layerskip generate`.
[<RequireQualifiedAccess>]
module internal WritingOptions =
    /// The strategy that is chosen, and what drafts.
    let strategy
        (model: ServedModel)
        (sampling: Sampling)
        (choice: StrategyChoice)
        : Result<Strategy * DraftingPlan option, LayerSkipError list> =
        StrategyChoice.planWith model.Adapter sampling model.Checkpoint choice
        |> Result.map (fun plan -> StrategyPlan.strategy model.Checkpoint plan, StrategyPlan.drafting plan)

    let private ofFormat (format: TextFormat) : AskedGrammar option =
        let asked name make = Some { Name = name; Field = "response_format"; Make = make }

        match format with
        | TextFormat.Free -> None
        | TextFormat.Json -> asked "" (fun () -> Ok Grammar.jsonObject)
        | TextFormat.Schema schema -> asked schema (fun () -> JsonSchemaGrammar.compile schema)

    let private constraintOf (model: ServedModel) (stopIds: int[]) (asked: AskedGrammar option) =
        match asked with
        | None -> Ok None
        | Some asked ->
            model.Constrain(asked, stopIds)
            |> Result.map Some
            |> Result.mapError (Refusal.ofGrammar asked.Field)

    let private rules (request: WritingRequest) (following: TokenConstraint option) : TokenRules = {
        RepetitionPenalty = request.RepetitionPenalty
        PresencePenalty = request.PresencePenalty
        FrequencyPenalty = request.FrequencyPenalty
        LogitBias = request.LogitBias
        Constraint = following
    }

    /// A fault of each field that names an id which the vocabulary has not.
    let private unknownIds (model: ServedModel) (request: WritingRequest) : Fault list =
        let vocabulary = model.Config.Vocabulary

        [
            "logit_bias", List.map fst request.LogitBias
            "stop_token_ids", request.StopIds
        ]
        |> List.choose (fun (field, ids) -> Fault.ofUnknownIds field vocabulary ids)

    /// The plan of a request's texts, but for their seeds.
    let plan
        (model: ServedModel)
        (frame: WritingFrame)
        (request: WritingRequest)
        : Result<WritingPlan, Refusal> =
        let drafting =
            if StrategyChoice.saysNothing request.Drafting then
                frame.Drafting
            else
                request.Drafting

        let stopIds = [|
            if not request.IgnoreEos then
                yield! frame.StopIds
            yield! request.StopIds
        |]

        let sampling = Sampling.createWith request.MinP request.Temperature request.TopK request.TopP

        let planned =
            strategy model (sampling |> Result.defaultValue Sampling.Greedy) drafting
            |> Check.both sampling
            |> Result.mapError Refusal.ofErrors

        let constrained =
            frame.Grammar |> Option.orElse (ofFormat request.Format) |> constraintOf model stopIds

        let refusals = [
            match unknownIds model request with
            | [] -> ()
            | faults -> Refusal.ofFaults faults
            match planned with
            | Error refusal -> refusal
            | Ok _ -> ()
            match constrained with
            | Error refusal -> refusal
            | Ok _ -> ()
        ]

        match planned, constrained with
        | Ok(sampling, (strategy, plan)), Ok following when refusals.IsEmpty ->
            Ok {
                Plan = plan
                Options = {
                    Strategy = strategy
                    Sampling = sampling
                    Rules = rules request following
                    MaxNewTokens = max 1 (defaultArg request.MaxTokens frame.MaxTokens)
                    StopIds = stopIds
                    StopTexts = request.StopTexts
                    ShowSpecial = request.ShowSpecial
                    Seed = request.Seed |> Option.defaultWith Random.Shared.NextInt64
                    LogProbs = frame.LogProbs
                    PromptLogProbs = frame.PromptLogProbs
                }
            }
        | _ -> Error(Refusal.join refusals)

    /// The options of one of a request's texts, counted from 0: each draws its own numbers.
    let ofText (place: int) (plan: WritingPlan) : GenerationOptions = {
        plan.Options with
            Seed = plan.Options.Seed + int64 place
    }
