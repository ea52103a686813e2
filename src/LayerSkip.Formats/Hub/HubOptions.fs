namespace LayerSkip

open System
open System.IO

/// Where models come from by name, and where they are kept.
type HubOptions = {
    /// The folder of models, shared with Python's huggingface_hub.
    Cache: string
    /// Without a slash at its end: "https://huggingface.co".
    Endpoint: string
    /// Of the user's account; sent to the endpoint, and to no other host.
    Token: string option
    /// Nothing but the cache is asked.
    Offline: bool
    /// How long an answer, or its next bytes, may take.
    Timeout: TimeSpan
    /// How many files come at once; 1 or more.
    Parallel: int
    /// How often a request is tried again that failed, and each time that a download that brought nothing new.
    Retries: int
    /// The wait before the first of them; each next one is twice as long.
    Backoff: TimeSpan
}

[<RequireQualifiedAccess>]
module HubOptions =
    /// The hub that is asked where the environment names none.
    let defaultEndpoint = HubName.defaultEndpoint

    let private isTrue (text: string) = List.contains (text.ToUpperInvariant()) [ "1"; "ON"; "YES"; "TRUE" ]

    let private expanded (path: string) =
        if path = "~" || path.StartsWith "~/" then
            Environment.GetFolderPath Environment.SpecialFolder.UserProfile + path[1..]
        else
            path

    /// What a token must be to stand in a header: nothing that ends the line.
    let private checkToken (origin: string) (token: string) =
        if token |> Seq.forall (fun character -> character > ' ' && character < '\127') then
            Ok(Some token)
        else
            Check.bad origin "holds what no token has; copy it again, in one line"

    let private endpoint (text: string) =
        match Uri.TryCreate(text, UriKind.Absolute) with
        | true, uri when (uri.Scheme = "https" || uri.Scheme = "http") && uri.Query = "" && uri.Fragment = "" ->
            Ok(text.TrimEnd '/')
        | _ -> Check.outOfRange "HF_ENDPOINT" text $"an address, as {defaultEndpoint}"

    let private seconds (name: string) (fallback: float) (given: string option) =
        match given |> Option.map Number.tryWhole with
        | None -> Ok(TimeSpan.FromSeconds fallback)
        | Some(Some seconds) when seconds >= 1 && seconds <= 86400 -> Ok(TimeSpan.FromSeconds(float seconds))
        | Some _ -> Check.outOfRange name given.Value "whole seconds, 1 to 86400"

    /// As variables say that Python's huggingface_hub reads too: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
    /// HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT; XDG_CACHE_HOME where HF_HOME is not set. `variable` is null
    /// where one is not there.
    let ofVariables (variable: string -> string) : Result<HubOptions, LayerSkipError list> =
        let given names = names |> List.map variable |> List.tryFind (String.IsNullOrWhiteSpace >> not)
        let path names = given names |> Option.map expanded

        let home =
            path [ "HF_HOME" ]
            |> Option.defaultWith (fun () ->
                let cache = path [ "XDG_CACHE_HOME" ] |> Option.defaultWith (fun () -> expanded "~/.cache")
                Path.Combine(cache, "huggingface"))

        let tokenOfFile () =
            let file = path [ "HF_TOKEN_PATH" ] |> Option.defaultValue (Path.Combine(home, "token"))

            match SourceFile.tryReadAll file with
            | Ok(Some bytes) -> checkToken file ((Text.Encoding.UTF8.GetString bytes).Trim())
            // An empty file is what a logout leaves.
            | Ok None
            | Error _ -> Ok None

        let token =
            match given [ "HF_TOKEN"; "HUGGING_FACE_HUB_TOKEN" ] with
            | _ when given [ "HF_HUB_DISABLE_IMPLICIT_TOKEN" ] |> Option.exists isTrue -> Ok None
            | Some token -> checkToken "HF_TOKEN" (token.Trim())
            | None -> tokenOfFile ()

        let endpoint =
            given [ "HF_ENDPOINT" ] |> Option.map endpoint |> Option.defaultValue (Ok defaultEndpoint)

        let timeout = "HF_HUB_DOWNLOAD_TIMEOUT"

        Check.both token (Check.both endpoint (seconds timeout 10.0 (given [ timeout ])))
        |> Result.map (fun (token, (endpoint, timeout)) -> {
            Cache =
                path [ "HF_HUB_CACHE"; "HUGGINGFACE_HUB_CACHE" ]
                |> Option.defaultValue (Path.Combine(home, "hub"))
                |> Path.GetFullPath
            Endpoint = endpoint
            Token = token
            Offline = given [ "HF_HUB_OFFLINE"; "TRANSFORMERS_OFFLINE" ] |> Option.exists isTrue
            Timeout = timeout
            Parallel = 4
            Retries = 5
            Backoff = TimeSpan.FromSeconds 1.0
        })

    /// `ofVariables` of this process.
    let ofEnvironment () : Result<HubOptions, LayerSkipError list> =
        ofVariables Environment.GetEnvironmentVariable

/// How far a download is.
type HubTransfer = {
    /// Of all that the model needs.
    Files: int
    FilesDone: int
    /// What is here, of `Total`; in bytes.
    Bytes: int64
    Total: int64
    /// Of `Bytes`, what came over the network this time.
    Fetched: int64
}

/// What happens while a model is brought.
[<RequireQualifiedAccess>]
type HubProgress =
    /// What the user should know: a sentence.
    | Remark of string
    | Transfer of HubTransfer
