namespace LayerSkip.Server

open System
open System.Collections.Generic
open System.Text.Json
open System.Threading
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// A text that is done, with all that came of it.
[<NoEquality; NoComparison>]
type internal DoneText = { Order: TextOrder; Tokens: TokenEvent list; Completion: Completion }

/// How one kind of answer is spelled: whole, and in pieces.
[<NoEquality; NoComparison>]
type internal AnswerForm = {
    Head: AnswerHead
    Plan: WritingPlan
    Writing: WritingRequest
    /// "object" of the whole answer, and of a piece.
    Kind: string
    PieceKind: string
    /// The items of "choices" in the whole answer.
    Whole: DoneText -> Utf8JsonWriter -> unit
    /// The items of "choices" in the pieces that open a text's part of a stream, with its first arrival.
    Open: TextOrder -> Arrival -> (Utf8JsonWriter -> unit) list
    /// Those that an arrival makes; it is asked once for each text.
    Piece: TextOrder -> Arrival -> (Utf8JsonWriter -> unit) list
}

/// Answers requests for texts, whole or as a stream of events.
[<RequireQualifiedAccess>]
module internal Exchange =
    let private object' (json: Utf8JsonWriter) (fields: unit -> unit) =
        json.WriteStartObject()
        fields ()
        json.WriteEndObject()

    /// The answer to be sent, for which no place is needed any more: a client that reads it slowly keeps none.
    let private whole
        service
        (form: AnswerForm)
        (orders: TextOrder list)
        cancelled
        : Task<HttpContext -> Task> =
        task {
            let arrived = orders |> List.map (fun _ -> List<TokenEvent>()) |> Array.ofList

            let receive (order: TextOrder) (arrival: Arrival) =
                arrived[order.Place].AddRange arrival.Tokens
                Task.CompletedTask

            let! completions = Service.write service cancelled receive orders

            let texts =
                List.zip orders completions
                |> List.map (fun (order, completion) -> {
                    Order = order
                    Tokens = List.ofSeq arrived[order.Place]
                    Completion = completion
                })

            return
                Reply.json (fun json ->
                    json |> AnswerHead.write form.Kind form.Head
                    json |> JsonWrite.objects "choices" texts (fun text -> form.Whole text json)
                    AnswerHead.usage form.Writing.Count completions json
                    SpeculationJson.write form.Plan completions json)
        }

    /// Nothing is sent before the first piece: until then the answer may still be a refusal.
    let private streamed
        (service: Service)
        (form: AnswerForm)
        (orders: TextOrder list)
        (context: HttpContext)
        cancelled
        : Task<HttpContext -> Task> =
        task {
            use stream = new EventStream(context, service.Options.ArrivalTimeout)
            let opened = HashSet<int>()

            let write (choices: unit -> Utf8JsonWriter -> unit) (usage: Utf8JsonWriter -> unit) =
                stream.Write(fun json ->
                    object' json (fun () ->
                        json |> AnswerHead.write form.PieceKind form.Head
                        choices () json
                        usage json))

            let piece (choice: Utf8JsonWriter -> unit) =
                write
                    (fun () json ->
                        json |> JsonWrite.objects "choices" [ choice ] (fun choice -> choice json))
                    (fun json ->
                        if form.Writing.IncludesUsage then
                            json.WriteNull "usage")

            let receive (order: TextOrder) (arrival: Arrival) : Task =
                if opened.Count = 0 then
                    stream.Open()

                if opened.Add order.Place then
                    form.Open order arrival |> List.iter piece

                form.Piece order arrival |> List.iter piece
                stream.Flush cancelled

            let! completions = Service.write service cancelled receive orders

            if form.Writing.IncludesUsage then
                write (fun () json -> json |> JsonWrite.array "choices" [] ignore) (fun json ->
                    AnswerHead.usage form.Writing.Count completions json
                    SpeculationJson.write form.Plan completions json)

            stream.Close()
            do! stream.Flush cancelled
            return fun _ -> Task.CompletedTask
        }

    /// Where an answer has begun, what goes wrong is an event of it.
    let private tell (service: Service) (refusal: Refusal) (context: HttpContext) : Task =
        task {
            if context.Response.HasStarted then
                use stream = new EventStream(context, service.Options.ArrivalTimeout)
                stream.Write(Refusal.write refusal)
                do! stream.Flush CancellationToken.None
            else
                do! Reply.refuse refusal context
        }

    /// Answers with the texts of these prompts.
    let private answer
        (service: Service)
        (context: HttpContext)
        (form: AnswerForm)
        (prompts: int[] list)
        : Task =
        task {
            let orders = Service.orders form.Writing form.Plan prompts

            let way =
                if form.Writing.IsStreamed then
                    streamed service form orders context
                else
                    whole service form orders

            match! Service.run service context.RequestAborted way with
            | Ok send -> do! send context
            | Error None -> ()
            | Error(Some refusal) -> do! tell service refusal context
        }

    /// Answers a request with the texts that `prepare` makes of its object, or says why not.
    let serve
        (service: Service)
        (context: HttpContext)
        (prepare: JsonElement -> Result<AnswerForm * int[] list, Refusal>)
        : Task =
        RequestBody.serve service.Options context (fun root ->
            prepare root
            |> Reply.orRefuse context (fun (form, prompts) -> answer service context form prompts))
