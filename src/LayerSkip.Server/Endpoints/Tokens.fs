namespace LayerSkip.Server

open System
open System.Text.Json
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// `/tokenize`, `/detokenize` and `/tokenizer_info`, as vLLM has them.
[<RequireQualifiedAccess>]
module internal Tokens =
    let private serve
        (service: Service)
        (context: HttpContext)
        read
        (answer: _ -> Tokenizer -> Result<Utf8JsonWriter -> unit, Refusal>)
        =
        RequestBody.serve service.Options context (fun root ->
            let reader = RequestReader root
            let asked = reader.Text "model"
            let given = read reader

            reader.Result(Ok given)
            |> Result.bind (fun given -> service.Model.Check asked |> Result.map (fun () -> given))
            |> Result.bind (fun given -> service.Model.Tokenizer |> Result.bind (answer given))
            |> Reply.orRefuse context (fun answer -> Reply.json answer context))

    /// What is to be ids: a text, with what the tokenizer puts in front of one or without, or a conversation.
    [<NoEquality; NoComparison>]
    type private Tokenized =
        | Text of text: string * addsSpecial: bool
        | Chat of ChatRequest * addsSpecial: bool

    let private readTokenized (reader: RequestReader) : Tokenized =
        match reader.TryField "messages" with
        | None ->
            let text = reader.Required("prompt", "a text", reader.Text) |> Option.defaultValue ""
            Text(text, reader.Flag("add_special_tokens", true))
        | Some _ ->
            if (reader.TryField "prompt").IsSome then
                reader.Fault("messages", "does not go with \"prompt\"; send one of them")

            let messages, tools = ChatMessages.read reader, ChatMessages.tools reader
            // A template writes what stands in front of a conversation itself.
            Chat(ChatMessages.conversation messages tools reader, reader.Flag "add_special_tokens")

    let private ids (service: Service) (tokenizer: Tokenizer) (asked: Tokenized) : Result<int[], Refusal> =
        let front addsSpecial = addsSpecial && Tokenizer.addsBos tokenizer

        match asked with
        | Text(text, addsSpecial) -> Ok(Tokenizer.encodeWith (front addsSpecial) true tokenizer text)
        | Chat(request, addsSpecial) ->
            ChatPrompt.ids service request
            |> Result.map (fun ids ->
                match Tokenizer.bos tokenizer with
                | Some bos when front addsSpecial && Array.tryHead ids <> Some bos ->
                    Array.append [| bos |] ids
                | _ -> ids)

    /// {prompt} or {messages, add_generation_prompt, continue_final_message, tools, chat_template_kwargs}, with add_special_tokens and
    /// return_token_strs -> {tokens, count, max_model_len}.
    let tokenize (service: Service) (context: HttpContext) : Task =
        serve
            service
            context
            (fun reader ->
                let asked = readTokenized reader
                struct (asked, reader.Flag "return_token_strs"))
            (fun struct (asked, tellsPieces) tokenizer ->
                ids service tokenizer asked
                |> Result.map (fun ids json ->
                    json.WriteNumber("count", ids.Length)
                    json.WriteNumber("max_model_len", service.Model.Config.Context)
                    json |> JsonWrite.ints "tokens" ids

                    if tellsPieces then
                        json
                        |> JsonWrite.array "token_strs" ids (fun id ->
                            json.WriteStringValue(Tokenizer.tokenText tokenizer id))))

    /// {tokens} -> {prompt}.
    let detokenize (service: Service) (context: HttpContext) : Task =
        let vocabulary = service.Model.Config.Vocabulary

        serve
            service
            context
            (fun reader ->
                let must = "a list of token ids"
                let read name = reader.Read(name, must, RequestReader.TryIds)
                let ids = reader.Required("tokens", must, read) |> Option.defaultValue [||]

                reader.Add(Option.toList (Fault.ofUnknownIds "tokens" vocabulary ids))
                ids)
            (fun ids tokenizer ->
                let text = Tokenizer.decode true tokenizer ids
                Ok(fun json -> json.WriteString("prompt", text)))

    /// What evaluation harnesses ask of a tokenizer that is elsewhere.
    let info (service: Service) (context: HttpContext) : Task =
        service.Model.Tokenizer
        |> Reply.orRefuse context (fun tokenizer ->
            context
            |> Reply.json (fun json ->
                let special (name: string) (id: int option) =
                    json |> JsonWrite.textOrNull name (id |> Option.map (Tokenizer.tokenText tokenizer))

                json.WriteString("tokenizer_class", Tokenizer.kind tokenizer)
                json.WriteNumber("vocab_size", Tokenizer.vocabularySize tokenizer)
                json.WriteNumber("model_max_length", service.Model.Config.Context)
                json.WriteBoolean("add_bos_token", Tokenizer.addsBos tokenizer)
                special "bos_token" (Tokenizer.bos tokenizer)
                special "eos_token" (Tokenizer.eos tokenizer)
                json |> JsonWrite.intOrNull "bos_token_id" (Tokenizer.bos tokenizer)
                json |> JsonWrite.intOrNull "eos_token_id" (Tokenizer.eos tokenizer)
                json |> JsonWrite.textOrNull "chat_template" (Tokenizer.chatTemplate tokenizer)))
