namespace LayerSkip.Server

open System
open System.Diagnostics
open System.Threading
open System.Threading.Tasks
open LayerSkip

/// Carries a refusal out of work that has begun.
exception internal RefusedException of Refusal

/// What every request is served with.
[<NoEquality; NoComparison>]
type internal Service = {
    Options: ServerOptions
    Model: ServedModel
    Engine: Engine
    Gate: Gate
    Metrics: Metrics
}

/// One of the texts that a request asks for.
[<NoEquality; NoComparison>]
type internal TextOrder = {
    /// Among the answer's choices, from 0.
    Place: int
    Prompt: int[]
    Options: GenerationOptions
    /// Whether only the prompt is wanted: a new token is none of the answer.
    IsPromptOnly: bool
}

[<RequireQualifiedAccess>]
module internal Service =
    /// Every fault of prompts that is known before any is read.
    let private checkPrompts (service: Service) (prompts: int[] list) : Result<unit, Refusal> =
        let config = service.Model.Config
        let most = service.Options.MaxPromptTokens |> Option.defaultValue Int32.MaxValue

        let faults = [
            for prompt in prompts do
                if prompt.Length > most then
                    {
                        Field = "prompt"
                        Text = $"the prompt has {prompt.Length} tokens, this server takes {most}"
                    }
                else
                    yield! PromptIds.length config prompt |> List.choose Refusal.tryFault

                yield! PromptIds.unknown config prompt |> List.choose Refusal.tryFault
        ]

        if faults.IsEmpty then
            Ok()
        elif
            prompts
            |> List.exists (fun prompt -> prompt.Length > most || prompt.Length >= config.Context)
        then
            Error { Refusal.ofFaults (List.distinct faults) with Code = Some "context_length_exceeded" }
        else
            Error(Refusal.ofFaults (List.distinct faults))

    /// How these prompts are to be continued; faults of prompts come first. Prompts that cannot be made are refused with all else that is
    /// wrong.
    let plan
        (service: Service)
        (frame: WritingFrame)
        (writing: WritingRequest)
        (prompts: Result<int[] list, Refusal>)
        : Result<WritingPlan * int[] list, Refusal> =
        let prompts =
            prompts
            |> Result.bind (fun prompts -> checkPrompts service prompts |> Result.map (fun () -> prompts))

        match prompts, WritingOptions.plan service.Model frame writing with
        | Ok prompts, Ok plan -> Ok(plan, prompts)
        | Error a, Error b -> Error(Refusal.join [ a; b ])
        | Error refusal, Ok _
        | Ok _, Error refusal -> Error refusal

    /// `each` prompt so many times, in the order of the answer's choices.
    let orders (writing: WritingRequest) (plan: WritingPlan) (prompts: int[] list) : TextOrder list =
        prompts
        |> List.collect (List.replicate writing.Count)
        |> List.mapi (fun place prompt -> {
            Place = place
            Prompt = prompt
            Options = WritingOptions.ofText place plan
            IsPromptOnly = writing.MaxTokens = Some 0
        })

    /// The library's faults as a request is told them; what only the one who runs the server may know goes there.
    let refusalOf (service: Service) (errors: LayerSkipError list) : Refusal =
        let refusal = Refusal.ofErrors errors

        if refusal.Status >= 500 then
            service.Options.Remark(LayerSkipError.summary errors)

        refusal

    let private ofRefusal (refusal: EngineRefusal) : Refusal =
        match refusal with
        | EngineRefusal.Invalid errors -> Refusal.ofErrors errors
        | EngineRefusal.Full _ -> Refusal.busy
        | EngineRefusal.Closed -> Refusal.ending

    let private withoutText (completion: Completion) : Completion = {
        completion with
            TokenIds = [||]
            Text = completion.Text |> Option.map (fun _ -> "")
            LogProbs = [||]
            Finish = FinishReason.Length
    }

    /// The answer to a prompt alone, as an arrival has it.
    let private promptOnly (arrival: Arrival) : Arrival = {
        arrival with
            Text = ""
            Tokens = []
            End = Option.map withoutText arrival.End
    }

    /// Writes a request's texts one after another, so that it never takes more than one place; what comes of each goes to `receive`.
    let write
        (service: Service)
        (cancelled: CancellationToken)
        (receive: TextOrder -> Arrival -> Task)
        (orders: TextOrder list)
        : Task<Completion list> =
        task {
            let completions = ResizeArray<Completion>()

            for order in orders do
                let began = Stopwatch.GetTimestamp()

                match
                    service.Engine.Submit {
                        EngineRequest.create order.Options order.Prompt with
                            Cancelled = cancelled
                    }
                with
                | Error refusal -> raise (RefusedException(ofRefusal refusal))
                | Ok ticket ->
                    let shown = if order.IsPromptOnly then promptOnly else id

                    let! completion =
                        Arrival.follow service.Metrics began ticket.Events cancelled (shown >> receive order)

                    completions.Add(
                        if order.IsPromptOnly then
                            withoutText completion
                        else
                            completion
                    )

            return List.ofSeq completions
        }

    /// Runs `work` as one of the requests that are being served, with a token that ends it: when the client goes, the request has had its
    /// time, or the server ends. Exceptions that mean a refusal come as one, and None stands for a client that is gone.
    let run
        (service: Service)
        (aborted: CancellationToken)
        (work: CancellationToken -> Task<'T>)
        : Task<Result<'T, Refusal option>> =
        task {
            match service.Gate.TryEnter() with
            | Error refusal -> return Error(Some refusal)
            | Ok place ->
                use _place = place
                use ending = CancellationTokenSource.CreateLinkedTokenSource(aborted, service.Gate.Stopping)
                ending.CancelAfter service.Options.RequestTimeout

                try
                    let! made = work ending.Token
                    return Ok made
                with
                | RefusedException refusal -> return Error(Some refusal)
                | :? LayerSkipException as e -> return Error(Some(refusalOf service e.Errors))
                | :? OperationCanceledException when aborted.IsCancellationRequested -> return Error None
                | :? OperationCanceledException when service.Gate.Stopping.IsCancellationRequested ->
                    return Error(Some Refusal.ending)
                | :? OperationCanceledException -> return Error(Some Refusal.overdue)
        }
