namespace LayerSkip

open System

/// What a hub's answers mean for who asked, and what to do.
[<RequireQualifiedAccess>]
module internal HubFaults =
    let private quoted (words: string) =
        if String.IsNullOrWhiteSpace words then
            ""
        else
            $" (\"{words.Trim()}\")"

    let private refused
        (options: HubOptions)
        (name: HubName)
        (status: int)
        (code: string)
        (words: string)
        : string =
        let page = $"{options.Endpoint}/{name.Repository}"

        match status, code, options.Token with
        | _, "GatedRepo", None ->
            $"its makers give it to those who agree to their terms: do so at {page}, and set HF_TOKEN to a token of that account"
        | _, "GatedRepo", Some _ ->
            $"the account of this token has no access: agree to the terms at {page}, or wait for consent"
        | 404, "RevisionNotFound", _ ->
            $"the model has no revision \"{name.Revision}\"; {page} tells those that it has"
        | 404, "EntryNotFound", _ -> $"{page} lists a file and has it not; try again"
        | 401, "RepoNotFound", _
        | 404, _, _
        | 401, _, None ->
            let secret =
                if options.Token.IsSome then
                    "the token's account may not see it"
                else
                    "it is private: set HF_TOKEN then"

            $"no file or folder is there, and {options.Endpoint} has no such model; correct the name, unless {secret}"
        | 401, _, Some _ ->
            $"{options.Endpoint} does not accept the token{quoted words}; set HF_TOKEN to another one, or log in again"
        | 403, _, _ ->
            $"{options.Endpoint} refuses access{quoted words}; look at {page}, and at what HF_TOKEN may read"
        | _ -> $"{options.Endpoint} answers {status}{quoted words}; look at {page}"

    /// In the library's words; `name` is as the user wrote it.
    let errors
        (options: HubOptions)
        (written: string)
        (name: HubName)
        (fault: HubFault)
        : LayerSkipError list =
        match fault with
        | HubFault.Refused(status, code, words) -> [
            LayerSkipError.NotOnHub(written, refused options name status code words)
          ]
        | HubFault.Unfit why -> [ LayerSkipError.NotOnHub(written, why) ]
        | HubFault.Passing(why, Some wait) ->
            let seconds = int (ceil wait.TotalSeconds)
            [
                LayerSkipError.HubFailed(
                    written,
                    $"{why}, and asks for a pause of {seconds} s; try again then"
                )
            ]
        | HubFault.Passing(why, None) -> [
            LayerSkipError.HubFailed(written, $"{why}; what has come is kept: try again")
          ]
        | HubFault.Wrong why -> [
            LayerSkipError.HubFailed(written, $"{why}; try again, or another HF_ENDPOINT")
          ]
        | HubFault.Here errors -> errors

    /// Why the copy in the cache has to do.
    let remark (options: HubOptions) (name: HubName) (commit: string) (fault: HubFault) : string =
        let why =
            match fault with
            | HubFault.Passing(why, _)
            | HubFault.Unfit why
            | HubFault.Wrong why -> why
            | HubFault.Refused(status, _, words) -> $"{options.Endpoint} answers {status}{quoted words}"
            | HubFault.Here errors -> LayerSkipError.summary errors

        $"{HubName.text name}: {why}; the copy in the cache is taken, of commit {commit[..6]}"
