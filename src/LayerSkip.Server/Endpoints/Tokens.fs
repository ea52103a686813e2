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
        (answer: _ -> Tokenizer -> Utf8JsonWriter -> unit)
        =
        RequestBody.serve service.Options context (fun root ->
            let reader = RequestReader root
            let asked = reader.Text "model"
            let given = read reader

            reader.Result(fun () -> given)
            |> Result.bind (fun given -> service.Model.Check asked |> Result.map (fun () -> given))
            |> Result.bind (fun given ->
                service.Model.Tokenizer |> Result.map (fun tokenizer -> given, tokenizer))
            |> Reply.orRefuse context (fun (given, tokenizer) -> Reply.json (answer given tokenizer) context))

    /// {prompt, add_special_tokens, return_token_strs} -> {tokens, count, max_model_len}.
    let tokenize (service: Service) (context: HttpContext) : Task =
        serve
            service
            context
            (fun reader ->
                let addsSpecial = reader.Flag("add_special_tokens", true)
                let text = reader.Required("prompt", "a text", reader.Text) |> Option.defaultValue ""
                struct (text, addsSpecial, reader.Flag "return_token_strs"))
            (fun struct (text, addsSpecial, tellsPieces) tokenizer json ->
                let ids =
                    Tokenizer.encodeWith (addsSpecial && Tokenizer.addsBos tokenizer) true tokenizer text

                json.WriteNumber("count", ids.Length)
                json.WriteNumber("max_model_len", service.Model.Config.Context)
                json |> JsonWrite.ints "tokens" ids

                if tellsPieces then
                    json
                    |> JsonWrite.array "token_strs" ids (fun id ->
                        json.WriteStringValue(Tokenizer.tokenText tokenizer id)))

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
            (fun ids tokenizer json -> json.WriteString("prompt", Tokenizer.decode true tokenizer ids))

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
